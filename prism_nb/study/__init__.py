"""Studies: methods against each other over scenarios and replicates, every cell an own run."""
