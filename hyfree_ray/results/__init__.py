"""From scores case by case to what may be said: means, intervals, tests, words."""
