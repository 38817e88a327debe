"""Files with a word on each line, as people have them; what is wrong is named by line."""

import gzip

import pytest

from dpjax.data import DataSource, read_tagged_words

ADA = [["Ada", "met", "us"], ["Rome"]]
TAGS = [["B-PER", "O", "O"], ["B-LOC"]]
CONLL_2003 = """\
-DOCSTART- -X- -X- O

Ada NNP B-NP B-PER
met VBD B-VP O
us PRP B-NP O

-DOCSTART- -X- -X- O

Rome NNP B-NP B-LOC
"""
CONLL_U = """\
# newdoc
# sent_id = 1
# text = Ada met us
1	Ada	Ada	PROPN	B-PER	_	2	nsubj	_	_
2-3	metus	_	_	_	_	_	_	_	_
2	met	meet	VERB	O	_	0	root	_	_
2.1	has	have	VERB	O	_	_	_	2:conj	_
3	us	we	PRON	O	_	2	obj	_	_

# text = Rome
1	Rome	Rome	PROPN	B-LOC	_	0	root	_	_

"""


@pytest.fixture
def read(tmp_path):
    """Reads a text that is written into a file of this name."""

    def make(text, name="train.conll", **options):
        path = tmp_path / name
        path.write_text(text)
        return read_tagged_words(DataSource(str(path), **options))

    return make


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.bio", "a.iob", "a.iob2", "a.tsv"])
@pytest.mark.parametrize("separator", [" ", "\t", "  "])
def test_words_and_last_columns_are_read(read, name, separator):
    records = read(CONLL_2003.replace(" ", separator), name)
    assert records.words == ADA and records.tags == TAGS


@pytest.mark.parametrize(
    ("tags", "expected"),
    [("2", "NNP"), ("-3", "NNP"), ("3", "B-NP"), ("-1", "B-PER")],
)
def test_columns_have_numbers(read, tags, expected):
    assert read(CONLL_2003, tags_column=tags).tags[0][0] == expected


def test_columns_have_the_names_that_are_given(read):
    names = ("word", "pos", "chunk", "ner")
    options = {"column_names": names, "words_column": "word"}
    assert read(CONLL_2003, tags_column="chunk", **options).tags[1] == ["B-NP"]
    assert read(CONLL_2003, tags_column="-1", **options).tags == TAGS


def test_conll_u_names_its_columns(read):
    records = read(CONLL_U, "a.conllu", tags_column="XPOS")
    assert records.words == ADA and records.tags == TAGS
    assert read(CONLL_U, "a.conllu", tags_column="UPOS").tags[1] == ["PROPN"]
    # Under another name it says nothing of itself.
    again = read(CONLL_U, "a.conll", words_column="2", tags_column="5")
    assert again.words == ADA and again.tags == TAGS


def test_conll_u_plus_names_its_columns_itself(read):
    text = "# global.columns = ID FORM NER\n1\tAda\tB-PER\n\n# text = x\n1\tRome\tB-LOC\n"
    records = read(text, words_column="FORM", tags_column="NER")
    assert records.words == [["Ada"], ["Rome"]] and records.tags == [["B-PER"], ["B-LOC"]]


def test_a_header_line_names_the_columns(read):
    text = "token\tpos\tner\nAda\tNNP\tB-PER\n\nRome\tNNP\tB-LOC\n"
    records = read(text, "a.tsv", words_column="token", tags_column="ner")
    assert records.words == [["Ada"], ["Rome"]] and records.tags == [["B-PER"], ["B-LOC"]]


def test_a_hash_is_a_comment_or_a_word(read):
    text = (
        "# id 7 domain=en\nAda _ _ B-PER\nmet _ _ O\n# _ _ O\n\n"
        "#begin document\n# _ _ O\n#tag _ _ B-PER\n#end document\n"
    )
    with pytest.raises(ValueError, match=r"line 9: 2 column\(s\), but line 2 has 4"):
        read(text)
    records = read(text.replace("#end document\n", "\n#end document\n"))
    assert records.words == [["Ada", "met", "#"], ["#", "#tag"]]
    assert records.tags == [["B-PER", "O", "O"], ["O", "B-PER"]]


def test_words_may_hold_blanks_between_tabs_and_odd_blanks_anywhere(read):
    assert read("New York\tB-LOC\nis\tO\n").words == [["New York", "is"]]
    assert read("10\u00a0000 B-NUM\nis O\n").words == [["10\u00a0000", "is"]]


def test_line_ends_of_windows_and_marks_of_its_editors(tmp_path):
    path = tmp_path / "a.conll"
    path.write_bytes(b"\xef\xbb\xbf" + CONLL_2003.replace("\n", "\r\n").encode())
    assert read_tagged_words(DataSource(str(path))).words == ADA


def test_files_in_gzip_and_several_files(tmp_path):
    first, second = CONLL_2003.split("\n-DOCSTART- -X- -X- O\n\nR")
    (tmp_path / "a.conll.gz").write_bytes(gzip.compress(first.encode()))
    (tmp_path / "b.conll.gz").write_bytes(gzip.compress(b"R" + second.encode()))
    records = read_tagged_words(DataSource(str(tmp_path / "*.gz")))
    assert records.words == ADA and records.tags == TAGS


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("a B\nb\n", {}, r"line 2: 1 column\(s\), but line 1 has 2"),
        ("a\tB\n\nsecret word O\n", {}, r"line 3: 1 column\(s\), but line 1 has 2"),
        ("a B\n", {"tags_column": "3"}, "has no column 3: its lines have 2 columns, from 1"),
        ("a B\n", {"tags_column": "-3"}, "has no column -3"),
        ("a B\n", {"tags_column": "0"}, "has no column 0"),
        ("a B\n", {"tags_column": "1"}, "are both column 1 of 2; they must differ"),
        ("a B\n", {"tags_column": "ner"}, "tags_column='ner' is no number: give the number"),
        ("a B\n", {"column_names": ("w", "ner")}, "no column 'tokens'; its columns: 'w', 'ner'"),
        ("a B\n", {"column_names": ("tokens", "x", "tags")}, "line 1: .* column_names has 3"),
        (
            "a B\n",
            {"column_names": ("tokens", "ner"), "tags_column": "nre"},
            "Did you mean tags_column='ner'",
        ),
        ("1\ta\tB\n2\tb\tO\n", {}, "the first column counts words, as in CoNLL-U"),
        ("a B\n", {"owner_column": "who"}, "owner_column has no meaning with a word on each line"),
        ("a\tB\n\t\tO\n", {}, r"line 2: 3 column\(s\)"),
        ("x\tO\n\na\tB\n\tO\n", {}, r"1 record with a word missing or empty \(line 3\)"),
        ("a\tB\nb\t\n", {}, r"1 record with a tag missing or empty \(line 1\)"),
        ("# nothing\n\n-DOCSTART- O\n", {}, "holds no records"),
    ],
)
def test_mistakes_are_named_by_line_and_never_quoted(read, text, options, said):
    with pytest.raises(ValueError, match=said) as raised:
        read(text, **options)
    assert "secret" not in str(raised.value)


def test_a_sentence_without_words_is_refused(read):
    text = "1\ta\tB\n\n# empty\n1-2\tbc\t_\n2.1\td\t_\n\n1\ta\tB\n"
    with pytest.raises(ValueError, match="line 4: a sentence without words"):
        read(text, words_column="2")


def test_conll_u_has_no_column_of_tags_by_default(read):
    with pytest.raises(ValueError, match=r"no column 'tags'; its columns: 'ID', .*Set tags_column"):
        read(CONLL_U, "a.conllu")


def test_only_words_with_tags_are_read_so(tmp_path):
    from dpjax.data import read_records

    (tmp_path / "a.conll").write_text("a B\n")
    with pytest.raises(ValueError, match="a word on each line are for task=token_classification"):
        read_records(DataSource(str(tmp_path / "a.conll")))
    (tmp_path / "a.doc").write_text("a B\n")
    with pytest.raises(ValueError, match=r"with a word on each line \.conll, \.conllu"):
        read_tagged_words(DataSource(str(tmp_path / "a.doc")))
