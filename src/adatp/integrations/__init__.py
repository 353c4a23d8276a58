"""adatp inside other programs. Nothing of the package imports what is here."""
