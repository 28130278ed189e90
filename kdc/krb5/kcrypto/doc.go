// Package kcrypto is the encryption and checksum framework of Kerberos (RFC 3961) with the enctypes that Charon speaks: AES with SHA-1
// (RFC 3962), AES with SHA-2 (RFC 8009) and, for principals that ask for it, RC4 (RFC 4757).
//
// It owns keys, key derivation, encryption with integrity, checksums, string-to-key, the pseudo-random function and KRB-FX-CF2 (RFC 6113).
// It must not know messages, principals, or which enctype somebody may use: callers decide that.
//
// Sources: RFC 3961, RFC 3962, RFC 4757, RFC 6113 section 5.1, RFC 8009; block ciphers and hashes are the standard library's.
package kcrypto
