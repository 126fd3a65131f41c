"""The command line. One module for each noun; whatever is heavy is imported when a command runs."""
