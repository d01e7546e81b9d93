package rendezvous

import "errors"

// ErrClosed means that the service has ended.
var ErrClosed = errors.New("rendezvous: closed")
