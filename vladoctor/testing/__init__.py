"""What the pytest plugin (`vladoctor.pytest_plugin`) does, once a test asks for it."""
