"""The commands of `dpjax`, each a module of its own."""
