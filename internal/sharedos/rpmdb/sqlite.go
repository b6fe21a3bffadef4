package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// database is an SQLite file (sqlite.org/fileformat2.html) whose tables are read sequentially.
type database struct {
	file []byte
	page int64 // size of a page in bytes
	used int64 // the used part of a page in bytes; the rest is reserved
	read int64 // bytes of records read so far; if they exceed the file, some were read twice
}

const (
	magic      = "SQLite format 3\x00"
	headerSize = 100 // of the file, in the first page

	interiorTable, leafTable = 0x05, 0x0d
)

func open(file []byte) (*database, error) {
	if len(file) < headerSize || string(file[:len(magic)]) != magic {
		return nil, errors.New("not an SQLite file")
	}
	page := int64(binary.BigEndian.Uint16(file[16:]))
	if page == 1 {
		page = 1 << 16
	}
	db := &database{file: file, page: page, used: page - int64(file[20])}
	if page < 512 || page&(page-1) != 0 || db.used < 480 {
		return nil, fmt.Errorf("pages of %d bytes, of which %d are used", page, db.used)
	}
	return db, nil
}

// pageAt returns a page by its number, from 1.
func (db *database) pageAt(number uint32) ([]byte, error) {
	end := int64(number) * db.page
	if number == 0 || end > int64(len(db.file)) {
		return nil, fmt.Errorf("page %d is not in the file", number)
	}
	return db.file[end-db.page : end][:db.used], nil
}

// table returns the number of a table's first page. The schema is a table that begins with page 1.
func (db *database) table(name string) (root uint32, _ error) {
	err := db.rows(1, func(columns [][]byte) error {
		// type, name, tbl_name, rootpage, sql
		if len(columns) == 5 && string(columns[0]) == "table" && string(columns[1]) == name {
			var number uint64
			for _, b := range columns[3] {
				number = number<<8 | uint64(b)
			}
			root = uint32(number)
		}
		return nil
	})
	if err == nil && root == 0 {
		err = fmt.Errorf("no table %q", name)
	}
	return root, err
}

// rows calls each with the columns of all rows of a table, in order.
func (db *database) rows(root uint32, each func(columns [][]byte) error) error {
	seen := make(map[uint32]bool) // otherwise a cycle of pages would never end
	var walk func(number uint32) error
	walk = func(number uint32) error {
		if seen[number] {
			return fmt.Errorf("page %d is in the table twice", number)
		}
		seen[number] = true
		page, err := db.pageAt(number)
		if err != nil {
			return err
		}
		start := 0
		if number == 1 {
			start = headerSize
		}
		kind, cells := page[start], int(binary.BigEndian.Uint16(page[start+3:]))
		pointers := start + 8
		if kind == interiorTable {
			pointers += 4
		}
		if pointers+2*cells > len(page) {
			return fmt.Errorf("page %d has %d cells", number, cells)
		}
		for i := range cells {
			cell := int(binary.BigEndian.Uint16(page[pointers+2*i:]))
			if cell+4 > len(page) {
				return fmt.Errorf("page %d has a cell at byte %d", number, cell)
			}
			switch kind {
			case interiorTable:
				err = walk(binary.BigEndian.Uint32(page[cell:]))
			case leafTable:
				err = db.row(page[cell:], each)
			default:
				err = fmt.Errorf("page %d has the type %#x", number, kind)
			}
			if err != nil {
				return err
			}
		}
		if kind == interiorTable {
			return walk(binary.BigEndian.Uint32(page[start+8:]))
		}
		return nil
	}
	return walk(root)
}

// row reads the cell of a row: the size of its record, its number, and the record. The end of a large record is in a
// linked list of overflow pages.
func (db *database) row(cell []byte, each func(columns [][]byte) error) error {
	total, cell, err := varint(cell)
	if err != nil {
		return err
	}
	if _, cell, err = varint(cell); err != nil {
		return err
	}
	if total > uint64(int64(len(db.file))-db.read) {
		return fmt.Errorf("a record of %d bytes after others of %d", total, db.read)
	}
	size := int64(total)
	db.read += size
	local := size
	if most, least := db.used-35, (db.used-12)*32/255-23; size > most {
		if local = least + (size-least)%(db.used-4); local > most {
			local = least
		}
	}
	if local > int64(len(cell)) {
		return fmt.Errorf("a record of %d bytes exceeds its page", local)
	}
	if local == size {
		return record(cell[:size], each)
	}
	if local+4 > int64(len(cell)) {
		return errors.New("a record exceeds its page")
	}
	whole := append(make([]byte, 0, size), cell[:local]...)
	for next := binary.BigEndian.Uint32(cell[local:]); int64(len(whole)) < size; {
		page, err := db.pageAt(next)
		if err != nil {
			return err
		}
		next = binary.BigEndian.Uint32(page)
		whole = append(whole, page[4:min(int64(len(page)), 4+size-int64(len(whole)))]...)
	}
	return record(whole, each)
}

// record splits a record into its columns. Numbers are returned as they are stored: big-endian, without leading zeros.
func record(data []byte, each func(columns [][]byte) error) error {
	size, types, err := varint(data)
	if err != nil {
		return err
	}
	if size > uint64(len(data)) || int(size) < len(data)-len(types) {
		return fmt.Errorf("a record whose header has %d bytes", size)
	}
	types, values := types[:int(size)-(len(data)-len(types))], data[size:]
	var columns [][]byte
	for len(types) > 0 {
		var kind uint64
		if kind, types, err = varint(types); err != nil {
			return err
		}
		length := uint64(0)
		switch {
		case kind <= 4:
			length = kind
		case kind == 5:
			length = 6
		case kind == 6 || kind == 7:
			length = 8
		case kind >= 12:
			length = (kind - 12) / 2
		}
		if length > uint64(len(values)) {
			return fmt.Errorf("a column of %d bytes", length)
		}
		columns, values = append(columns, values[:length]), values[length:]
	}
	return each(columns)
}

// varint reads a number of 1 to 9 bytes: seven bits from each, and eight from the ninth.
func varint(data []byte) (value uint64, rest []byte, _ error) {
	for i := range min(9, len(data)) {
		if i == 8 {
			return value<<8 | uint64(data[i]), data[i+1:], nil
		}
		value = value<<7 | uint64(data[i]&0x7f)
		if data[i]&0x80 == 0 {
			return value, data[i+1:], nil
		}
	}
	return 0, nil, errors.New("a number without an end")
}
