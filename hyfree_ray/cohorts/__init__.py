"""Who has which images of whom: data sets as they are, checked, dealt out; the phantom."""
