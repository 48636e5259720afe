"""How the bundled model is made: composed and rendered music, its captions, and the training that uses them."""
