"""The subcommand ``featshare doctor``: a report on this installation and this machine."""
