"""Evidence about a version in forms that other people's tools verify.

A model-signing bundle of a checkout, an in-toto test result, a CycloneDX bill of
materials, a model card: each is told from what the repository holds, so equal
states give equal bytes, and checked by the library of its standard before it is
handed out. Those libraries are the extra ``attest`` and are imported when needed.
"""
