"""The experiments of chapters 5 to 7, which take too long for a chapter."""
