"""One file a command. Each fills a frozen settings object and calls one stage; none imports torch
until it must.
"""
