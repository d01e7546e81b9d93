package nattest

// optIn reads the tests that take time.
func (c *classifier) optIn() {
}
