"""Other people's tools that run adatp, a module a tool; each needs an extra of its own."""
