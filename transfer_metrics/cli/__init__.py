"""The command line: a file per verb or pair of verbs; each parses, calls the library, prints."""
