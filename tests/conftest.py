"""What all tests have in common."""

import os

# No test trusts the machine's certificate authorities, nor does any program it starts. Besides,
# reading them takes tens of milliseconds, once for each of some hundred processes and servers.
os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
