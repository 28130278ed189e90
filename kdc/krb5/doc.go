// Package krb5 is Kerberos V5 as a library: the messages of RFC 4120 and their DER, names, registered numbers, sealing and
// opening, and the AP, SAFE, PRIV and CRED exchanges for initiators and acceptors.
//
// It owns the wire. It must not know a principal database, a KDC's policy, sockets, files or the clock: callers hand in times
// and randomness.
//
// Every message has a pair DecodeX, EncodeX. The decoders take strict DER, refuse what is left over and any field that the type
// does not have, and are bounded: an input of at most 1 MiB, names of at most 10 components of 256 octets and 1 KiB in all, a
// realm of at most 256 octets, allocation at most 20 times the input over the fixed size of one message. What clients of today
// send outside the RFC's letter is taken: either reading of a 32-bit integer's top bit, any octets in a string, bit strings of any
// length, empty lists, and microseconds of any size.
//
// A decoded message shares its octet strings (cipher, padata-value, ad-data and the like) with the input, which must not change while
// the message is in use; strings and keys are copies.
//
// The codec is written by hand, reading with cryptobyte and writing backwards into one buffer, because reflection costs more
// than all of a KDC's cryptography. A second codec over gofork's asn1 stands in the tests: each accepts and produces exactly what the
// other does.
//
// Sources: RFC 4120, RFC 6806 section 11, RFC 6113, MS-KILE; numbers as in the IANA registries.
package krb5
