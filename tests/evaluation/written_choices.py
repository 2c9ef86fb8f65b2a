"""Written answers to multiple-choice questions with the label that each names, or None.

Written by hand from the published rules: the choices are offered as A to D; the forms come from what the scoring scripts of
Video-MME, MVBench, MMMU, MathVista, BLINK, TempCompass and of VLMEvalKit look for, and from what they get wrong.
"""

CHOICES = ("walking", "running fast", "sitting down", "a red car")  # A to D

LABELS = (  # the label alone, in any dress
    *(
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("(b)", "B"),
        ("[B]", "B"),
        ("B)", "B"),
        ("b)", "B"),
        ("B:", "B"),
    ),
    *(
        ("**B**", "B"),
        ("*B*", "B"),
        ("__B__", "B"),
        ("`B`", "B"),
        ('"B"', "B"),
        ("'B'", "B"),
        ("“B”", "B"),
        ("「B」", "B"),
    ),
    *(("Ｂ", "B"), ("（B）", "B"), ("（Ｂ）", "B"), ("【B】", "B"), ("\n B \n", "B"), ("**(B)**", "B"), ("### B", "B")),
    *(
        (r"\boxed{B}", "B"),
        (r"$\boxed{B}$", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\mathrm{(B)}}", "B"),
        ("$B$", "B"),
    ),
    *((r"The answer is \boxed{C}.", "C"), (r"\[\boxed{\textbf{D}}\]", "D"), (r"\(\boxed{b}\)", "B"), ("> C", "C")),
    *(
        ('{"answer": "B"}', "B"),
        ('```json\n{"answer": "b", "reason": "A is wrong"}\n```', "B"),
        ("{'choice': 'C'}", "C"),
    ),
    *(
        ('{"final_answer": "(D)"}', "D"),
        ('["B"]', "B"),
        ('Here it is: {"option": "B"}', "B"),
        ("<answer>B</answer>", "B"),
    ),
    *(("<think>A or C? A it is.</think>B", "B"), ("<think>\nmaybe A\n</think>\n\nThe answer is B.", "B")),
    *(("<think>C</think><answer>(D) a red car</answer>", "D"), ("hm, A</think> C", "C"), ("~~A~~ B", "B")),
)
WITH_TEXT = (  # label and text, or the text in full
    *(("B. running fast", "B"), ("(B) running fast", "B"), ("B: running fast.", "B"), ("B running fast", "B")),
    *(("Option B: running fast", "B"), ("B) Running fast", "B"), ("B - running fast", "B"), ("D. A red car", "D")),
    *(("running fast", "B"), ("Running fast.", "B"), ("RUNNING FAST", "B"), ("a red car", "D"), ("A red car.", "D")),
    *(("It is a red car.", "D"), ("The man is sitting down.", "C"), ("He is walking, not running fast.", "A")),
    *(("B. running fast\n\nThe man moves quickly through a park.", "B"), ("The person was walking.", "A")),
)
LED = (  # behind a lead, in any case
    *(
        ("Answer: b", "B"),
        ("answer:B", "B"),
        ("ANSWER: B", "B"),
        ("Answer B", "B"),
        ("Answer - B", "B"),
        ("Ans: c", "C"),
    ),
    *(
        ("Option b", "B"),
        ("option B", "B"),
        ("OPTION B", "B"),
        ("Option (B)", "B"),
        ("choice c", "C"),
        ("Choice: C", "C"),
    ),
    *(
        ("The answer is B", "B"),
        ("The answer is (b).", "B"),
        ("the answer is: **B**", "B"),
        ("The answer is option B.", "B"),
    ),
    *(("The best answer is: C", "C"), ("The correct option is (b)", "B"), ("So the correct option is **C**", "C")),
    *(("The correct answer would be D.", "D"), ("The right choice is clearly C", "C"), ("Best option: B", "B")),
    *(
        ("My answer: A", "A"),
        ("Final answer: D", "D"),
        ("The final answer is A.", "A"),
        ("I choose B", "B"),
        ("I'd go with C.", "C"),
    ),
    *(
        ("I would pick (d)", "D"),
        ("I select option A.", "A"),
        ("It is B.", "B"),
        ("It's C", "C"),
        ("It should be D.", "D"),
    ),
    *(
        ("Therefore, B.", "B"),
        ("I think it is B", "B"),
        ("probably C", "C"),
        ("B is correct", "B"),
        ("A is the correct answer.", "A"),
    ),
    *(
        ("Option C is the best choice.", "C"),
        ("C, because he sits.", "C"),
        ("A because he walks", "A"),
        ("B is right, A is not.", "B"),
    ),
    *(
        ("Based on the video, the answer is B: he hurries.", "B"),
        ("Sure! The answer is D", "D"),
        ("I think so. The answer is (D).", "D"),
    ),
    ("Looking at option A and option C first, the correct answer is B.", "B"),
    ("A. walking\nB. running fast\nC. sitting down\nD. a red car\n\nAnswer: C", "C"),
    ("Option A: he stands. Option B: he hurries. The answer is B.", "B"),
)
CHINESE = (
    *(
        ("答案是B", "B"),
        ("答案：B", "B"),
        ("答案为B。", "B"),
        ("选B", "B"),
        ("选 B。", "B"),
        ("选项B", "B"),
        ("选择B", "B"),
    ),
    *(
        ("正确答案为：B", "B"),
        ("正确答案是（B）", "B"),
        ("正确选项是B。", "B"),
        ("最终答案：D", "D"),
        ("我选C", "C"),
        ("应选D", "D"),
    ),
    *(
        ("故选Ｃ。", "C"),
        ("因此，答案是A。", "A"),
        ("B是正确的", "B"),
        ("B选项正确。", "B"),
        ("不是A，而是B", "B"),
        ("A错误，选B", "B"),
    ),
    *(
        ("根据视频，答案应该是B", "B"),
        ("A和B", None),
        ("A或者C", None),
        ("A、C", None),
        ("不选B", None),
        ("不是A", None),
    ),
)
DENIED = (
    *(
        ("not A but B", "B"),
        ("Not A, but B.", "B"),
        ("A is wrong, B", "B"),
        ("A is wrong, B is right", "B"),
        ("B, not A", "B"),
    ),
    *(
        ("It is not A", None),
        ("It isn't B.", None),
        ("The answer is not C", None),
        ("Neither A nor B", None),
        ("not A", None),
    ),
    *(
        ("The answer is not A but C.", "C"),
        ("B rather than A", "B"),
        ("C instead of D", "C"),
        ("It can't be A, so it is D", "D"),
    ),
    *(("A is incorrect; the answer is D", "D"), ("A and C are wrong, so B", "B"), ("I don't think it is A", None)),
    *(
        ("Not walking but sitting down", "C"),
        ("Option A is not correct. Option B is correct.", "B"),
        ("It is not walking", None),
    ),
    *(("We can rule out A and B. The answer is D.", "D"), ("A does not match, B does not match, C fits.", "C")),
    *(
        ("It is either not A or not B", None),
        ("A is wrong", None),
        ("Answer: neither", None),
        ("Not only A but also B", None),
    ),
)
CORRECTED = (
    *(("A. Wait, B", "B"), ("The answer is A. Wait, no, the answer is B.", "B"), ("A - sorry, I mean C", "C")),
    *(("First A seemed right, but the answer is B.", "B"), ("Answer: A\nCorrection: B", "B"), ("A, no, B", "B")),
    *(("The answer is A... on second thought, it is D.", "D"), ("Answer: A. So the final answer is C", "C")),
)
REFUSED = (  # several, none, or only what looks like a label
    *(
        ("A or C", None),
        ("A and B", None),
        ("A, B", None),
        ("A / B", None),
        ("A/B", None),
        ("Both A and B", None),
        ("A & B", None),
    ),
    *(
        ("A B", None),
        ("AB", None),
        ("A+B", None),
        ("A, B or C", None),
        ("A. B.", None),
        ("(A) (B)", None),
        ("(A), (C)", None),
    ),
    *(("Answer: A or B", None), ("The answer is A and C", None), ("Answer: A, C", None), ("either B or C", None)),
    *(
        ("between A and B", None),
        ("maybe (A) or (B)", None),
        ("It could be A or it could be D.", None),
        ("a or b", None),
    ),
    *(
        ("Answer: A\nAnswer: B", None),
        ("A. The correct answer is B", None),
        ('["A", "B"]', None),
        ('{"answer": ["A", "B"]}', None),
    ),
    *((r"\boxed{A} or \boxed{B}", None), ("A. walking\nB. running fast", None), ("option A or option B", None)),
    *(
        ("A man walks", None),
        ("A dog runs along", None),
        ("a man", None),
        ("I cannot tell", None),
        ("I see a dog", None),
    ),
    *(
        ("The answer is a dog", None),
        ("Answer: A man", None),
        ("Vitamin C", None),
        ("It shows plan B", None),
        ("", None),
        ("E", None),
    ),
    *(
        ("None of the above", None),
        ("none of A, B, C or D", None),
        ("Is it A?", None),
        ("walking or sitting down", None),
    ),
    *(("Sorry, I can't help with that.", None), ("<think>It is B", None), ("B-roll footage", None), ("A-frame", None)),
    *(
        ("D.C. at night", None),
        ("C++", None),
        ("all of them", None),
        ("I don't know", None),
        ("the man in option A", None),
    ),
)
ALSO = (  # found when other lists were tried
    *(
        ("not a but b", "B"),
        ("the letter C on the wall", None),
        ("A) or C)", None),
        ("B; C", None),
        ("B\nC", None),
        ("B vs C", None),
    ),
    *(("A isn't correct, B is.", "B"), ("None of A, B, C, D", None), ("Answer: A. Let me reconsider. Answer: D", "D")),
    *(
        ("Initially I chose A. However, the correct answer is B.", "B"),
        ("Anything but B", None),
        ("N/A", None),
    ),
    *(
        ('{"answer": {"choice": "B"}}', "B"),
        ("$$\\boxed{\\mathbf{B}}$$", "B"),
        ("答：B", "B"),
        ("B项正确", "B"),
        ("并非A，而是C", "C"),
    ),
)
ALL = (*LABELS, *WITH_TEXT, *LED, *CHINESE, *DENIED, *CORRECTED, *REFUSED, *ALSO)

YES_NO = (  # offered by their texts alone: MME, TempCompass
    *(
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("No", "no"),
        ("NO!", "no"),
        ("**Yes**", "yes"),
        ("Yes, it does.", "yes"),
        ("No, it isn't", "no"),
    ),
    *(
        ("yes it is", "yes"),
        ("no there is none", "no"),
        ("well no", "no"),
        ("The answer is no.", "no"),
        ("Answer: Yes", "yes"),
    ),
    *(
        ("<think>no</think>Yes", "yes"),
        ("No, yes it was not", "no"),
        ("Yes. There is no doubt.", "yes"),
        ("I think yes", "yes"),
    ),
    *(
        ("There is no way to tell", None),
        ("There is no dog", None),
        ("No one is there", None),
        ("I have no idea", None),
    ),
    *(
        ("none", None),
        ("Nothing", None),
        ("yes and no", None),
        ("Yes or no", None),
        ("not yes", None),
        ("know", None),
        ("", None),
    ),
    *(("It is unclear", None), ("no longer visible", None), ("no doubt, yes", "yes"), ("No dogs can be seen", None)),
    *(("是", "yes"), ("是的。", "yes"), ("否", "no"), ("不是", "no"), ("答案：否", "no")),
    *(
        ("It's a no", "no"),
        ("Therefore, yes.", "yes"),
        ("Yes, but no", None),
        ("It says no smoking", None),
        ("Definitely yes", "yes"),
    ),
    *(
        ("There's no way of knowing.", None),
        ("neither yes nor no", None),
        ("Not really", None),
        ("No; it is red", "no"),
    ),
)
