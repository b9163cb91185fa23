"""Where objects come from: a cluster's API or files, through one intake, into the Store."""
