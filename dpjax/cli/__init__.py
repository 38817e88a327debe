"""The command `dpjax`."""
