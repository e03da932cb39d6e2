package main

import (
	"crypto/rsa"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
)

// Under this name fake-gcs-server answers to the XML API.
const xmlHost = "storage.googleapis.com"

// As many objects as Google puts into one page.
const pageSize = "1000"

// front speaks the XML API, and fake-gcs-server's own JSON API where that has no XML.
type front struct {
	inner   http.Handler
	bucket  string
	account *rsa.PublicKey
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bucket, object, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case !signed(r.Header.Get("Authorization"), f.account):
		refuse(w, http.StatusUnauthorized, "AuthenticationRequired", "Authentication required.")
	case bucket != f.bucket:
		refuse(w, http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist.")
	case r.Method == http.MethodPut && object != "" && r.URL.RawQuery == "":
		f.upload(w, r, object)
	case r.Method == http.MethodGet && object == "" && r.URL.Query().Get("list-type") == "2":
		f.list(w, r)
	case object != "" && r.URL.RawQuery == "" &&
		(r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodDelete):
		r.Host = xmlHost
		f.inner.ServeHTTP(w, r)
	default:
		refuse(w, http.StatusNotImplemented, "NotImplemented", "This emulator does not do that.")
	}
}

// upload is PUT /BUCKET/OBJECT.
func (f *front) upload(w http.ResponseWriter, r *http.Request, object string) {
	query := url.Values{"uploadType": {"media"}, "name": {object}}
	if match := r.Header.Get("x-goog-if-generation-match"); match != "" {
		query.Set("ifGenerationMatch", match)
	}
	inner := httptest.NewRequest(http.MethodPost, "/upload/storage/v1/b/"+f.bucket+"/o?"+query.Encode(), r.Body)
	inner.Header.Set("Content-Type", r.Header.Get("Content-Type"))
	var stored struct{ Etag, Generation string }
	switch status := f.ask(inner, &stored); status {
	case http.StatusOK:
		w.Header().Set("ETag", `"`+stored.Etag+`"`)
		w.Header().Set("x-goog-generation", stored.Generation)
	case http.StatusPreconditionFailed:
		refuse(w, status, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
	default:
		refuse(w, status, "InternalError", "The upload failed.")
	}
}

type content struct {
	Key, LastModified, ETag, Generation, Size string
}

type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Name, Prefix          string
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []content
	CommonPrefixes        []struct{ Prefix string }
}

// list is GET /BUCKET?list-type=2.
func (f *front) list(w http.ResponseWriter, r *http.Request) {
	asked := r.URL.Query()
	query := url.Values{"maxResults": {pageSize}}
	for theirs, ours := range map[string]string{"prefix": "prefix", "delimiter": "delimiter", "continuation-token": "pageToken"} {
		if value := asked.Get(theirs); value != "" {
			query.Set(ours, value)
		}
	}
	if asked.Has("start-after") || asked.Has("max-keys") {
		refuse(w, http.StatusNotImplemented, "NotImplemented", "This emulator does not do that.")
		return
	}
	var page struct {
		Items []struct {
			Name, Updated, Etag, Generation, Size string
		}
		Prefixes      []string
		NextPageToken string
	}
	inner := httptest.NewRequest(http.MethodGet, "/storage/v1/b/"+f.bucket+"/o?"+query.Encode(), nil)
	if status := f.ask(inner, &page); status != http.StatusOK {
		refuse(w, status, "InternalError", "The listing failed.")
		return
	}
	answer := listing{
		Name:                  f.bucket,
		Prefix:                asked.Get("prefix"),
		IsTruncated:           page.NextPageToken != "",
		NextContinuationToken: page.NextPageToken,
	}
	for _, item := range page.Items {
		answer.Contents = append(answer.Contents, content{
			Key: item.Name, LastModified: item.Updated, ETag: `"` + item.Etag + `"`, Generation: item.Generation, Size: item.Size,
		})
	}
	// fake-gcs-server names all of them on every page.
	if asked.Get("continuation-token") == "" {
		for _, prefix := range page.Prefixes {
			answer.CommonPrefixes = append(answer.CommonPrefixes, struct{ Prefix string }{prefix})
		}
	}
	respond(w, http.StatusOK, answer)
}

// ask has fake-gcs-server answer, and reads the answer where it is a good one.
func (f *front) ask(r *http.Request, into any) int {
	answer := httptest.NewRecorder()
	f.inner.ServeHTTP(answer, r)
	if answer.Code == http.StatusOK && json.Unmarshal(answer.Body.Bytes(), into) != nil {
		return http.StatusInternalServerError
	}
	return answer.Code
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	respond(w, status, struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: code, Message: message})
}

func respond(w http.ResponseWriter, status int, body any) {
	text, err := xml.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(append([]byte(xml.Header), text...))
}
