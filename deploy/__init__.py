"""What deploy.sh needs: its steps in shell, and in Python what is asked of JSON and of the settings.

Nothing here is uploaded with the functions. The Python runs on the machine of whoever deploys, where nothing is
installed: it uses the standard library and those modules of `lib` that need no more.
"""
