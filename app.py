"""Start the studio: settings, the studio, its server."""

from studio import Settings
from studio.api.server import serve
from studio.cli import errors_to_sentences

if __name__ == "__main__":
    with errors_to_sentences():
        serve(Settings())
