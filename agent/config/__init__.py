"""What the operator wrote: models of the files, loading and checks across them."""
