package scenarios

// Decode fills a pointer to a value from the one document of a YAML or JSON file, as strictly as Load reads scenarios: by the JSON names of
// fields, with every unknown key, repeated key and value of the wrong type told at once. It is for formats that become scenarios; file is
// for the faults alone. The error is a Faults.
func Decode(file string, content []byte, into any) (Lines, error) {
	var to sink
	documents := parse(file, content, &to)
	var doc *document
	switch {
	case len(to.faults) > 0:
	case len(documents) == 0:
		to.add(Fault{File: file, Message: "holds no document"})
	case len(documents) > 1:
		to.add(Fault{File: file, Line: documents[1].Line, Message: "holds more than one document"})
	default:
		doc = newDocument(file, documents[0], &to)
		doc.decode(documents[0], "", into)
	}
	if faults := to.sorted(); len(faults) > 0 {
		return nil, faults
	}
	return linesOf(file, doc.node), nil
}
