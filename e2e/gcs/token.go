package main

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// signed tells whether this is a token that the account signed for itself (RS256) and that is still good.
func signed(authorization string, account *rsa.PublicKey) bool {
	token, is := strings.CutPrefix(authorization, "Bearer ")
	parts := strings.Split(token, ".")
	if !is || len(parts) != 3 {
		return false
	}
	var header struct{ Alg string }
	var claims struct{ Iat, Exp int64 }
	if !decode(parts[0], &header) || !decode(parts[1], &claims) || header.Alg != "RS256" {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	now := time.Now().Unix()
	return rsa.VerifyPKCS1v15(account, crypto.SHA256, digest[:], signature) == nil && now < claims.Exp && claims.Exp-claims.Iat <= 3600
}

func decode(part string, into any) bool {
	text, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(text, into) == nil
}
