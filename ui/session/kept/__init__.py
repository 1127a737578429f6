"""Keep on disk what must outlive the program."""
