"""The route of a cluster: an HTTPRoute of the Gateway API whose weights move, or one Service whose selector moves."""
