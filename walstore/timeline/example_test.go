package timeline_test

import (
	"fmt"

	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// family is a tree: timeline 1 was left for 2 at 0/5000100 and for 3 at 0/7000000, and 2 for 4 at 0/9000028.
func family() timeline.Tree {
	return timeline.Tree{
		1: nil,
		2: {{Timeline: 1, Switch: 0x5000100}},
		3: {{Timeline: 1, Switch: 0x7000000}},
		4: {{Timeline: 1, Switch: 0x5000100}, {Timeline: 2, Switch: 0x9000028}},
	}
}

const mb16 = segment.Size(16 << 20)

func ExamplePath() {
	history := "1\t0/5000100\tno recovery target specified\n2\t0/9000028\tbefore 2026-11-30 12:00:00+00\n"
	ancestors, _ := segment.ParseHistory(4, []byte(history))
	for _, s := range timeline.To(4, ancestors) {
		fmt.Println(s.Timeline, s.Begin, s.End)
	}
	// Output:
	// 1 0/0 0/5000100
	// 2 0/5000100 0/9000028
	// 4 0/9000028 0/0
}

// A backup of timeline 1 that is consistent at 0/6000000 cannot be recovered to timeline 2, which had left it by then.
func ExampleTree_Descendants() {
	fmt.Println(family().Descendants(1, 0x5000000), family().Descendants(1, 0x6000000))
	// Output: [1 2 3 4] [1 3]
}

// The segment in which a timeline is left is read from the next one.
func ExamplePath_Ranges() {
	for _, r := range family().Path(4).From(1, 0x3000028).Ranges(mb16)[:2] {
		fmt.Println(r.Timeline, r.First, r.Last)
	}
	fmt.Println(family().Path(4).Segment(9, mb16).Name(mb16))
	// Output:
	// 1 3 4
	// 2 5 8
	// 000000040000000000000009
}

func ExamplePath_Gaps() {
	held := timeline.Held{1: {{First: 3, Last: 3}}, 2: {{First: 6, Last: 8}}, 4: {{First: 9, Last: 20}}}
	path := family().Path(4)
	for _, gap := range path.Gaps(held, mb16) {
		fmt.Println("gap:", gap.Timeline, gap.First, gap.Last)
	}
	last, _ := path.From(1, 0x3000028).Reach(held, mb16)
	fmt.Println("recovery gets to", last.Name(mb16))
	// Output:
	// gap: 1 4 4
	// gap: 2 5 5
	// recovery gets to 000000010000000000000003
}
