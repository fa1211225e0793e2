package object

func (f WriterFunc) Write(p []byte) (int, error) { return f(p) }
