"""What the paper shows, one file for each table or figure."""
