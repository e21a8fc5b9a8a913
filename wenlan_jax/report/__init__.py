"""`wenlan report`: one run as one page that a person reads, made from the files of its work directory alone."""
