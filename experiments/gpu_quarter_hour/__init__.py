"""What a quarter of an hour on a GPU is used for, in order of worth."""
