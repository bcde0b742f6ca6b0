"""`python -m tools bench`: the implementations beside the straightforward form."""
