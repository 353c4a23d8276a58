"""adatp inside the tools of others; each module needs the tool that it is named after."""
