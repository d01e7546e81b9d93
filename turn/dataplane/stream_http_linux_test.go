package dataplane

import "testing"

func TestSocketTakesNoHTTPForChannelData(t *testing.T) {
	s := startSocket(t, socketConfig(t))
	testHTTP(t, s, s.address(1))
}
