package rollout

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrWaves means that waves are not what Split can use.
var ErrWaves = errors.New("the waves are not a sequence of sizes")

// size is the size of a wave: how many VMs, or how many in a hundred, have the release once the
// wave and those before it are done.
type size struct {
	count   int
	percent bool
}

func parseSize(text string) (size, error) {
	digits, percent := strings.CutSuffix(text, "%")
	count, err := strconv.Atoi(digits)
	switch {
	case err != nil || strconv.Itoa(count) != digits || count < 1:
		return size{}, fmt.Errorf(
			"%w: %q is neither a number of VMs, such as \"1\", nor a share of them, such as \"10%%\"", ErrWaves, text)
	case percent && count > 100:
		return size{}, fmt.Errorf("%w: %q is more than all VMs", ErrWaves, text)
	}
	return size{count, percent}, nil
}

// of returns how many of some VMs it stands for: a share is rounded up.
func (s size) of(all int) int {
	if s.percent {
		return (all*s.count + 99) / 100
	}
	return min(s.count, all)
}

// CheckWaves checks the sizes of waves: each is a number or a share ("1", "10%"), and none is smaller
// than one of its kind before it, since each counts the waves before it, too. The error matches ErrWaves.
func CheckWaves(sizes []string) error {
	_, err := parseSizes(sizes)
	return err
}

func parseSizes(texts []string) ([]size, error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrWaves)
	}
	last := map[bool]int{}
	sizes := make([]size, len(texts))
	for i, text := range texts {
		one, err := parseSize(text)
		if err != nil {
			return nil, err
		}
		if one.count <= last[one.percent] {
			return nil, fmt.Errorf(
				"%w: %q is not more than the wave before it; each size counts the waves before it, too", ErrWaves, text)
		}
		last[one.percent], sizes[i] = one.count, one
	}
	return sizes, nil
}

// Split divides VMs into waves, in their order. Each size says how many VMs have the release once its wave is done.
// Waves that would have no VM are left out, and VMs that no size reaches are the last wave. The error matches ErrWaves.
func Split(names, sizes []string) ([][]string, error) {
	parsed, err := parseSizes(sizes)
	if err != nil {
		return nil, err
	}
	var waves [][]string
	done := 0
	for _, size := range append(parsed, size{100, true}) {
		if until := size.of(len(names)); until > done {
			waves = append(waves, names[done:until])
			done = until
		}
	}
	return waves, nil
}
