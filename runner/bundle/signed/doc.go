// Package signed is the file that is carried across the gap: one reproducible tar whose first entry is a signed list of all others.
//
// [Write] makes a bundle of [Source]s, [AddSignatures] signs one that was made before, [Read] verifies one and hands over its entries as they
// stream by. [Sign], [Countersign] and [Open] do the same for one statement that stands alone. Who may sign is a [Trust], read with [ParseTrust] or
// made from keys; keys come from [GenerateKey] and [ParsePrivateKey].
//
// The first entry, envelope.json, is a DSSE envelope (https://github.com/secure-systems-lab/dsse) around an in-toto statement
// (https://github.com/in-toto/attestation), so that stock verifiers accept it. Its predicate lists every other entry by name, size and
// SHA-256, in order. Nothing behind it is read before its signatures are verified. Then the rest must be, byte for byte, the tar of
// exactly these entries: headers are compared with the only header that the list allows, so that an unlisted, missing, doubled, renamed,
// reordered or oversized entry has no form in which it could be read, and no name in the tar is ever used as a path.
//
// The trap: an entry's content is verified when its last byte has passed. Who uses content earlier uses what nobody has vouched for; write it
// aside and move it into place after Read has returned without an error.
package signed
