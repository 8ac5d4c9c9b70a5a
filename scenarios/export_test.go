package scenarios

// LinesOf are the lines of a document that is no object, or none that the API server would take.
func LinesOf(content string) Lines {
	return linesOf("f.yaml", parse("f.yaml", []byte(content), &sink{})[0])
}
