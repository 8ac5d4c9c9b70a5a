package scenarios

import _ "embed"

//go:generate go test . -run TestSchema -update

//go:embed schema.json
var schema string

// Schema is the JSON schema (draft 2020-12) of scenario and World files, for editors and checkers. It knows the shape of the language; what
// depends on more than one field is known to Load alone.
func Schema() []byte { return []byte(schema) }
