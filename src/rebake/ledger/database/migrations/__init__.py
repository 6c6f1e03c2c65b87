"""How a database gets the tables of this version. Run by `schema.ensure`, never by hand."""
