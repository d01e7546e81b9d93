package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Ours to tune.
const (
	tokenBytes    = 32  // 256 bits, written as 64 hexadecimal digits
	tokenShortest = 32  // characters of a token that an operator made
	tokenLongest  = 512 // likewise
)

// makeToken reads the token, after making one when the file is absent.
func makeToken(path string) (string, error) {
	if path == "" {
		return "", errors.New("admin.token_file: no file is named: name one that only the server's user can read")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", fmt.Errorf("admin.token_file: %w: name a file in a directory that the server's user may write to", err)
		}
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return readToken(path)
	case err != nil:
		return "", fmt.Errorf("admin.token_file: %w: name a file in a directory that the server's user may write to", err)
	}
	random := make([]byte, tokenBytes)
	rand.Read(random) // never fails
	token := hex.EncodeToString(random)
	_, err = f.WriteString(token + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		// An empty file would stop the next start.
		return "", fmt.Errorf("admin.token_file: %w", errors.Join(err, os.Remove(path)))
	}
	return token, nil
}

// readToken reads the token out of a file that nobody else can read.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("admin.token_file: permission denied reading the token %s: run as the server's user", path)
	case err != nil:
		return "", fmt.Errorf("admin.token_file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("admin.token_file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("admin.token_file: %s is no regular file: name one", path)
	}
	if err := private(info); err != nil {
		return "", fmt.Errorf("admin.token_file: %s %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, tokenLongest+64))
	if err != nil {
		return "", fmt.Errorf("admin.token_file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < tokenShortest || len(token) > tokenLongest || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("admin.token_file: %s has no token of %d to %d printable characters: remove the file, and the next start of the server makes one",
			path, tokenShortest, tokenLongest)
	}
	return token, nil
}

// secret is a token to compare with. The hashes have one length, so that the comparison takes one time.
type secret [sha256.Size]byte

func newSecret(token string) secret { return sha256.Sum256([]byte(token)) }

func (s *secret) is(token string) bool {
	given := newSecret(token)
	return subtle.ConstantTimeCompare(s[:], given[:]) == 1
}
