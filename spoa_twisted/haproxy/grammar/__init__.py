"""HAProxy's configuration language: lines, words, conditional blocks, sections and sample expressions."""
