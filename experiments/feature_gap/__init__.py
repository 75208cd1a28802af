"""Does diffusion earn its place once training features are brought to where test features lie?"""
