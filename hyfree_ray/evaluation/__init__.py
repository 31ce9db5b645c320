"""What is trained to be compared, what is measured, and the scores."""
