package admin

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificate is a key pair that is read again when its file changes, so that a renewed one needs no restart.
type certificate struct {
	cert, key string

	mu      sync.Mutex
	pair    *tls.Certificate
	changed time.Time
}

func loadCertificate(cert, key string) (*certificate, error) {
	c := &certificate{cert: cert, key: key}
	info, err := os.Stat(cert)
	if err != nil {
		return nil, fmt.Errorf("admin.tls.cert: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("admin.tls: %w: name a PEM certificate in admin.tls.cert and its PEM key in admin.tls.key", err)
	}
	c.pair, c.changed = &pair, info.ModTime()
	return c, nil
}

// current is what a handshake uses. While a new pair cannot be read, or only half of it is there, the old one stays.
func (c *certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if info, err := os.Stat(c.cert); err == nil && !info.ModTime().Equal(c.changed) {
		if pair, err := tls.LoadX509KeyPair(c.cert, c.key); err == nil {
			c.pair, c.changed = &pair, info.ModTime()
		}
	}
	return c.pair
}

// names reports whether the certificate is for this host name.
func (c *certificate) names(host string) bool {
	pair := c.current()
	leaf := pair.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return false
		}
	}
	return leaf.VerifyHostname(host) == nil
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}
