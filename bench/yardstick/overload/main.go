// Command overload offers more requests a second than a gateway can answer, as impatient clients would: so many
// connections, each with one request at a time, at a rate that does not depend on the answers. A request that is not
// answered by its deadline is given up with its connection, as a client with a timeout does. Prints one line of JSON.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

type tally struct {
	answers map[string]int
	ok      []float64
	refused []float64
}

type result struct {
	Seconds float64        `json:"seconds"`
	Answers map[string]int `json:"answers"`
	OkP50   float64        `json:"ok_p50_ms"`
	OkP99   float64        `json:"ok_p99_ms"`
	RefP50  float64        `json:"refused_p50_ms"`
	RefP99  float64        `json:"refused_p99_ms"`
	RefMax  float64        `json:"refused_max_ms"`
}

var (
	address     = flag.String("address", "127.0.0.1:9090", "host:port of the gateway")
	topic       = flag.String("topic", "overload", "topic of version v1")
	connections = flag.Int("connections", 512, "each with one request at a time")
	rate        = flag.Float64("rate", 0, "requests a second of all together; 0: each as soon as the last was answered")
	seconds     = flag.Float64("seconds", 10, "how long")
	deadline    = flag.Float64("deadline", 1, "seconds after which a request is given up with its connection")
	polls       = flag.Float64("polls", 0, "part of the connections that poll instead of publishing")
	groups      = flag.Int("groups", 64, "groups that polls are spread over")
	limit       = flag.Int("limit", 10, "records of a poll")
	size        = flag.Int("bytes", 100, "of a record")
	headers     = flag.String("headers", "", "more header lines, with | between")
	obey        = flag.Bool("obey", false, "wait as Retry-After says")
)

func main() {
	flag.Parse()
	began := time.Now()
	until := began.Add(time.Duration(*seconds * float64(time.Second)))
	tallies := make([]tally, *connections)
	var all sync.WaitGroup
	for number := range *connections {
		all.Add(1)
		go func() {
			defer all.Done()
			client(number, began, until, &tallies[number])
		}()
	}
	all.Wait()
	found := result{Seconds: time.Since(began).Seconds(), Answers: map[string]int{}}
	var ok, refused []float64
	for _, each := range tallies {
		for what, count := range each.answers {
			found.Answers[what] += count
		}
		ok = append(ok, each.ok...)
		refused = append(refused, each.refused...)
	}
	found.OkP50, found.OkP99 = percentile(ok, 50), percentile(ok, 99)
	found.RefP50, found.RefP99, found.RefMax = percentile(refused, 50), percentile(refused, 99), percentile(refused, 100)
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		panic(err)
	}
}

func percentile(values []float64, percent int) float64 {
	if len(values) == 0 {
		return 0
	}
	sort.Float64s(values)
	return values[min(len(values)*percent/100, len(values)-1)] * 1000
}

func request(number int) ([]byte, string) {
	extra := ""
	if *headers != "" {
		extra = strings.ReplaceAll(*headers, "|", "\r\n") + "\r\n"
	}
	if float64(number%100) < *polls*100 {
		return fmt.Appendf(nil, "GET /v1/topics/%s/group%d?limit=%d&timeout=%g&offset=earliest HTTP/1.1\r\nHost: bench\r\n%s\r\n",
			*topic, number%*groups, *limit, *deadline*0.8, extra), "poll"
	}
	return fmt.Appendf(nil, "POST /v1/topics/%s?timeout=%g HTTP/1.1\r\nHost: bench\r\n%sContent-Length: %d\r\n\r\n%s",
		*topic, *deadline, extra, *size, strings.Repeat("x", *size)), "publish"
}

// client sends its requests one after the other; those that it is late with it sends at once.
func client(number int, began, until time.Time, count *tally) {
	count.answers = map[string]int{}
	payload, kind := request(number)
	interval := time.Duration(0)
	if *rate > 0 {
		interval = time.Duration(float64(*connections) / *rate * float64(time.Second))
	}
	patience := time.Duration(*deadline * float64(time.Second))
	next := began.Add(interval * time.Duration(number) / time.Duration(*connections))
	var connection net.Conn
	var reader *bufio.Reader
	for time.Now().Before(until) {
		if pause := time.Until(next); pause > 0 {
			time.Sleep(pause)
		}
		if next = next.Add(interval); time.Since(next) > interval {
			// a client has no more than one request: what it could not send it never sends
			next = time.Now()
		}
		if connection == nil {
			var err error
			if connection, err = net.DialTimeout("tcp", *address, patience); err != nil {
				count.answers["not connected"]++
				connection = nil
				time.Sleep(10 * time.Millisecond)
				continue
			}
			reader = bufio.NewReader(connection)
		}
		asked := time.Now()
		_ = connection.SetDeadline(asked.Add(patience))
		status, wait, closes, err := exchange(connection, reader, payload)
		took := time.Since(asked).Seconds()
		switch {
		case err != nil:
			what := "cut"
			if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				what = "given up"
			}
			count.answers[what]++
			closes = true
		case status < 300:
			count.answers[kind]++
			count.ok = append(count.ok, took)
		default:
			count.answers[strconv.Itoa(status)]++
			count.refused = append(count.refused, took)
			if *obey && wait > 0 {
				next = time.Now().Add(time.Duration(wait) * time.Second)
			}
		}
		if closes {
			connection.Close()
			connection = nil
		}
	}
	if connection != nil {
		connection.Close()
	}
}

func exchange(connection net.Conn, reader *bufio.Reader, payload []byte) (status, wait int, closes bool, err error) {
	if _, err = connection.Write(payload); err != nil {
		return
	}
	line, err := reader.ReadSlice('\n')
	if err != nil {
		return
	}
	if len(line) < 12 {
		return 0, 0, true, io.ErrUnexpectedEOF
	}
	status, _ = strconv.Atoi(string(line[9:12]))
	length, chunked := 0, false
	for {
		if line, err = reader.ReadSlice('\n'); err != nil {
			return
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := strings.Cut(string(line[:len(line)-2]), ": ")
		switch strings.ToLower(name) {
		case "content-length":
			length, _ = strconv.Atoi(value)
		case "transfer-encoding":
			chunked = true
		case "retry-after":
			wait, _ = strconv.Atoi(value)
		case "connection":
			closes = value == "close"
		}
	}
	if !chunked {
		_, err = reader.Discard(length)
		return
	}
	for {
		if line, err = reader.ReadSlice('\n'); err != nil {
			return
		}
		size, parseError := strconv.ParseInt(strings.TrimSpace(string(line)), 16, 64)
		if parseError != nil {
			return status, wait, true, parseError
		}
		if _, err = reader.Discard(int(size) + 2); err != nil || size == 0 {
			return
		}
	}
}
