package service

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// childVariable makes this test program an agent that is to take over, and says how it behaves.
const childVariable = "SHAREDOS_TEST_SUCCESSOR"

func TestMain(m *testing.M) {
	if behaviour := os.Getenv(childVariable); behaviour != "" {
		os.Exit(successor(behaviour))
	}
	os.Exit(matrix.Run(m))
}

// successor is a process that takes over, or fails to in one of many ways.
func successor(behaviour string) int {
	say := func(word string) {
		if err := notify(judge(), word); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	switch behaviour {
	case "exits":
		return 3
	case "hangs":
	case "listens":
		say(readyWord)
	case "answers, exits":
		say(readyWord)
		say(answeredWord)
		return 0
	case "babbles":
		for range 1000 {
			say("STATUS=" + string(make([]byte, 2000)))
		}
	default:
		say(readyWord)
		say(answeredWord)
	}
	time.Sleep(time.Minute)
	return 0
}
