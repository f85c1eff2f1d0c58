"""What lasts: journals, the regions that are views of them, small files and blobs.

Import from the modules: ``journal``, ``region``, ``published``, ``generations``, ``layouts``, ``files``,
``blobs``. Nothing is re-exported here, because who needs a blob should not load LMDB.
"""
