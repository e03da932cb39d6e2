// The Google Cloud Storage of the tests: fake-gcs-server, which stores, numbers generations and judges preconditions,
// behind the part of the XML API that it lacks and that object_store speaks: upload of an object with
// x-goog-if-generation-match, and listings in pages.
//
// Requests carry a token that a service account signed for itself; it is verified against the account's public key.
package main

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"log"
	"net/http"
	"os"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:4443", "address and port")
	data := flag.String("data", "", "the folder for buckets and objects; left out: in memory")
	bucket := flag.String("bucket", "", "a bucket that is there")
	key := flag.String("public-key", "", "PEM: the public key of the one service account that may do everything")
	flag.Parse()

	account, err := publicKey(*key)
	if err != nil {
		log.Fatalf("-public-key: %v", err)
	}
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, StorageRoot: *data})
	if err != nil {
		log.Fatal(err)
	}
	server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: *bucket})
	log.Fatal(http.ListenAndServe(*listen, &front{inner: server.HTTPHandler(), bucket: *bucket, account: account}))
}

func publicKey(file string) (*rsa.PublicKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	account, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("no RSA key")
	}
	return account, nil
}
