// Command yardstick does what kateway does in the benchmarks, as a plain Go program on net/http and franz-go:
// publishing one record or a batch, and reading with a group or from a partition, raw or as NDJSON. It has no keys,
// no quotas and no leases. The bodies of its answers are kateway's, and a line for each request goes to its output.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	maxBodyBytes   = 1 << 20
	publishTimeout = 5 * time.Second
	firstRecord    = 30 * time.Second
	shortIdle      = time.Second
	recordsAPoll   = 10_000
	logFlush       = 250 * time.Millisecond
)

type gateway struct {
	brokers []string
	client  *kgo.Client
	lines   accessLog
	began   string
	count   atomic.Uint64
}

func main() {
	address := flag.String("listen", "127.0.0.1:9090", "host:port")
	brokers := flag.String("kafka", "127.0.0.1:9092", "host:port, with commas between")
	flag.Parse()
	// a heap of a few megabytes would otherwise be collected many times a second
	debug.SetGCPercent(400)
	g := &gateway{brokers: strings.Split(*brokers, ","), began: strconv.FormatInt(time.Now().UnixNano(), 16)}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(g.brokers...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.RecordDeliveryTimeout(publishTimeout),
	)
	if err != nil {
		log.Fatal(err)
	}
	g.client = client
	go g.lines.flush()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", g.logged(g.ready))
	mux.HandleFunc("POST /v1/topics/{topic}", g.logged(g.publish))
	mux.HandleFunc("GET /v1/topics/{topic}", g.logged(g.subscribe))
	mux.HandleFunc("GET /v1/topics/{topic}/{group}", g.logged(g.subscribe))
	log.Fatal(http.ListenAndServe(*address, mux))
}

func (g *gateway) ready(w http.ResponseWriter, r *http.Request) int {
	if err := g.client.Ping(r.Context()); err != nil {
		return refuse(w, http.StatusServiceUnavailable, err)
	}
	return http.StatusOK
}

func refuse(w http.ResponseWriter, status int, err error) int {
	problem, _ := json.Marshal(map[string]any{"status": status, "detail": err.Error()})
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(problem)
	return status
}

// --- publish ---------------------------------------------------------------------------------------------------

func (g *gateway) publish(w http.ResponseWriter, r *http.Request) int {
	body, err := readBody(w, r)
	if err != nil {
		return refuse(w, http.StatusBadRequest, err)
	}
	topic := r.PathValue("topic")
	var records []*kgo.Record
	batch := r.URL.RawQuery == "batch=1"
	if batch {
		for line := range bytes.Lines(body) {
			if line = bytes.TrimRight(line, "\r\n"); len(line) != 0 {
				records = append(records, &kgo.Record{Topic: topic, Value: line})
			}
		}
	} else if r.URL.RawQuery == "" {
		headers := []kgo.RecordHeader{{Key: "content-type", Value: []byte(r.Header.Get("Content-Type"))}}
		records = []*kgo.Record{{Topic: topic, Value: body, Headers: headers}}
	}
	if len(records) == 0 {
		return refuse(w, http.StatusBadRequest, errors.New("no records, or a parameter other than batch=1"))
	}
	if err := g.client.ProduceSync(r.Context(), records...).FirstErr(); err != nil {
		return refuse(w, http.StatusServiceUnavailable, err)
	}
	header := w.Header()
	header["Content-Type"] = []string{"application/json"}
	var answer []byte
	if batch {
		answer = append(make([]byte, 0, 16+40*len(records)), `{"results":[`...)
		for number, record := range records {
			if number != 0 {
				answer = append(answer, ',')
			}
			answer = appendPlace(answer, record)
		}
		answer = append(answer, "]}"...)
	} else {
		partition := strconv.Itoa(int(records[0].Partition))
		offset := strconv.FormatInt(records[0].Offset, 10)
		header["X-Partition"], header["X-Offset"] = []string{partition}, []string{offset}
		header["Location"] = []string{"/v1/topics/" + topic + "?partition=" + partition + "&offset=" + offset}
		answer = appendPlace(make([]byte, 0, 48), records[0])
	}
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(answer)
	return http.StatusCreated
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength < 0 || r.ContentLength > maxBodyBytes {
		return io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	}
	body := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, body)
	return body, err
}

func appendPlace(out []byte, record *kgo.Record) []byte {
	out = strconv.AppendInt(append(out, `{"partition":`...), int64(record.Partition), 10)
	out = strconv.AppendInt(append(out, `,"offset":`...), record.Offset, 10)
	return append(out, '}')
}

// --- subscribe -------------------------------------------------------------------------------------------------

// reader gives a client for one response: a group's, or one that reads a partition from an offset.
func (g *gateway) reader(r *http.Request) (*kgo.Client, error) {
	options := []kgo.Opt{kgo.SeedBrokers(g.brokers...), kgo.FetchMaxWait(500 * time.Millisecond)}
	topic, group, query := r.PathValue("topic"), r.PathValue("group"), r.URL.Query()
	if group != "" {
		return kgo.NewClient(append(options, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	}
	partition, err := strconv.ParseInt(query.Get("partition"), 10, 32)
	if err != nil {
		return nil, err
	}
	start := kgo.NewOffset().AtStart()
	if text := query.Get("offset"); text != "earliest" {
		offset, err := strconv.ParseInt(text, 10, 64)
		if err != nil || offset < 0 {
			return nil, errors.New("offset is neither a number nor earliest")
		}
		start = kgo.NewOffset().At(offset)
	}
	return kgo.NewClient(append(options, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topic: {int32(partition): start}}))...)
}

func (g *gateway) subscribe(w http.ResponseWriter, r *http.Request) int {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 1 {
		return refuse(w, http.StatusBadRequest, errors.New("limit is not a positive number"))
	}
	client, err := g.reader(r)
	if err != nil {
		return refuse(w, http.StatusBadRequest, err)
	}
	defer client.Close()
	idle := firstRecord
	if limit <= 1000 {
		idle = shortIdle
	}
	fetches, err := poll(r.Context(), client, limit, firstRecord)
	if err != nil {
		return refuse(w, http.StatusServiceUnavailable, err)
	}
	if fetches.Empty() {
		w.WriteHeader(http.StatusNoContent)
		return http.StatusNoContent
	}
	out, encode, flush, last := io.Writer(w), appendJSON, http.NewResponseController(w).Flush, ""
	if r.Header.Get("Accept") == "application/x-ndjson" {
		w.Header().Set("Content-Type", "application/x-ndjson")
	} else {
		// each value is a chunk of its own, which net/http does not do without a write for each
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return refuse(w, http.StatusServiceUnavailable, err)
		}
		defer connection.Close()
		fmt.Fprintf(connection, "HTTP/1.1 200 OK\r\nDate: %s\r\nX-Request-Id: %s\r\nConnection: close\r\n"+
			"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
			time.Now().UTC().Format(http.TimeFormat), w.Header().Get("X-Request-Id"))
		out, encode, last = connection, appendChunk, "0\r\n\r\n"
		flush = func() error { return nil }
	}
	var buffer []byte
	for limit > 0 && !fetches.Empty() {
		buffer = buffer[:0]
		fetches.EachRecord(func(record *kgo.Record) { buffer = encode(buffer, record) })
		if _, err = out.Write(buffer); err != nil || flush() != nil {
			return http.StatusOK
		}
		if limit -= fetches.NumRecords(); limit > 0 {
			if fetches, err = poll(r.Context(), client, limit, idle); err != nil {
				// a response that cannot go on is cut off
				panic(http.ErrAbortHandler)
			}
		}
	}
	_, _ = io.WriteString(out, last)
	if r.PathValue("group") != "" {
		if err := client.CommitUncommittedOffsets(context.Background()); err != nil {
			log.Print(err)
		}
	}
	return http.StatusOK
}

// poll waits for records; none in time are no error.
func poll(ctx context.Context, client *kgo.Client, most int, wait time.Duration) (kgo.Fetches, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	fetches := client.PollRecords(ctx, min(most, recordsAPoll))
	if err := fetches.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	return fetches, nil
}

func appendChunk(out []byte, record *kgo.Record) []byte {
	out = append(strconv.AppendInt(out, int64(len(record.Value)+1), 16), "\r\n"...)
	return append(append(out, record.Value...), "\n\r\n"...)
}

func appendJSON(out []byte, record *kgo.Record) []byte {
	out = strconv.AppendInt(append(out, `{"partition":`...), int64(record.Partition), 10)
	out = strconv.AppendInt(append(out, `,"offset":`...), record.Offset, 10)
	out = strconv.AppendInt(append(out, `,"timestamp":`...), record.Timestamp.UnixMilli(), 10)
	out = appendBytes(append(out, ','), "key", record.Key)
	out = appendBytes(append(out, ','), "value", record.Value)
	out = append(out, `,"headers":[`...)
	for number, header := range record.Headers {
		if number != 0 {
			out = append(out, ',')
		}
		name, _ := json.Marshal(header.Key)
		out = append(append(append(out, `{"name":`...), name...), ',')
		out = append(appendBytes(out, "value", header.Value), '}')
	}
	return append(out, "]}\n"...)
}

func appendBytes(out []byte, name string, value []byte) []byte {
	out = append(append(out, '"'), name...)
	if value == nil {
		return append(out, `":null`...)
	}
	if !utf8.Valid(value) {
		out = append(out, `_base64":"`...)
		return append(base64.StdEncoding.AppendEncode(out, value), '"')
	}
	for _, each := range value {
		if each < ' ' || each == '"' || each == '\\' {
			quoted, _ := json.Marshal(string(value))
			return append(append(out, `":`...), quoted...)
		}
	}
	return append(append(append(out, `":"`...), value...), '"')
}

// --- the access log --------------------------------------------------------------------------------------------

type accessLog struct {
	lock    sync.Mutex
	waiting []byte
}

func (g *gateway) logged(handle func(http.ResponseWriter, *http.Request) int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		id := g.began + "-" + strconv.FormatUint(g.count.Add(1), 10)
		w.Header()["X-Request-Id"] = []string{id}
		status := handle(w, r)
		g.lines.note(r, id, status, began)
	}
}

func (l *accessLog) note(r *http.Request, id string, status int, began time.Time) {
	peer, _, _ := net.SplitHostPort(r.RemoteAddr)
	l.lock.Lock()
	defer l.lock.Unlock()
	l.waiting = time.Now().UTC().AppendFormat(l.waiting, "2006-01-02T15:04:05.000Z")
	l.waiting = fmt.Appendf(l.waiting, " %s - %s %s %d %.3fms %s %q\n", peer, r.Method, r.URL.Path, status,
		float64(time.Since(began).Microseconds())/1000, id, r.UserAgent())
}

func (l *accessLog) flush() {
	var lines []byte
	for range time.Tick(logFlush) {
		l.lock.Lock()
		lines, l.waiting = l.waiting, lines[:0]
		l.lock.Unlock()
		_, _ = os.Stdout.Write(lines)
	}
}
