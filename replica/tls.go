package replica

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
)

// TLSStop turns an error of TLS that trying again cannot heal into a [Stop]; others, and nil, it returns as they are. end is "source" or
// "target", as in the names of the flags.
func TLSStop(end string, e Endpoint, err error) error {
	stop := func(reason, hint string) error {
		return &Stop{Kind: Config, Reason: fmt.Sprintf("the %s %s %s", end, e, reason), Hint: hint, Err: err}
	}
	var (
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
		host   x509.HostnameError
		author x509.UnknownAuthorityError
		cert   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &host):
		return stop("has a certificate for another name", "use that name in the URL, or --"+end+"-tls-server-name")
	case errors.As(err, &verify), errors.As(err, &author), errors.As(err, &cert):
		return stop("has a certificate that we do not trust", "name its authority with --"+end+"-tls-ca")
	case certificateAlert(err):
		return stop("does not accept our certificate", "give another one with --"+end+"-tls-cert and --"+end+"-tls-key")
	case errors.As(err, &record):
		return stop("does not speak TLS on this port", "use redis://, or its tls-port")
	}
	return err
}

// certificateAlert tells the server's alerts that are about the client's certificate (RFC 8446, section 6.2). With TLS 1.3 they arrive only
// at the first read, and package tls has no exported type for them: only their texts are the same as those of a QUIC connection's.
func certificateAlert(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return false
	}
	for _, code := range []tls.AlertError{42, 43, 44, 45, 46, 48, 116} { // bad, unsupported, revoked, expired, unknown, of an unknown CA, required
		if op.Err.Error() == code.Error() {
			return true
		}
	}
	return false
}
